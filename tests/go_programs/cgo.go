package main

/*
#include <stdlib.h>
static void fall(int *nowhere) { *nowhere = 1; }
*/
import "C"

func init() {
	ways["c-fault"] = cFault
	ways["c-abort"] = cAbort
}

func cFault() { C.fall(nil) }

func cAbort() { C.abort() }
