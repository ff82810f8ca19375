//go:build go1.21

package main

import (
	"context"
	"maps"
	"runtime/pprof"
)

func init() {
	ways["map-clone-write"] = mapCloneAndWrite
	ways["panic-labels"] = panicWithLabels
}

func mapCloneAndWrite() {
	m := map[int]int{}
	for i := 0; i < 1000; i++ {
		m[i] = i
	}
	concurrently(func() { write(m) }, func() { maps.Clone(m) })
}

func panicWithLabels() {
	labels := pprof.Labels("job", "x1", "tenant", "acme corp")
	pprof.Do(context.Background(), labels, func(context.Context) { origin() })
}
