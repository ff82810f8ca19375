"""What to do about each class of incident: the end of every report to a person."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from exporter.model import IncidentKind

NEXT: Final[Mapping[IncidentKind, str]] = {
    IncidentKind.CONCURRENT_MAP: (
        "A defect of the server: two goroutines used one map at once. Update it; if no version mends it, report the"
        " stack to its makers and avoid what leads to this function."
    ),
    IncidentKind.NIL_DEREFERENCE: "A defect of the server. Update it, or report the stack to its makers.",
    IncidentKind.PANIC: (
        "The server gave up; the message says why. Where it names no cause outside, such as a full disk or its store,"
        " report the stack to its makers."
    ),
    IncidentKind.DEADLOCK: (
        "A defect of the server: all its goroutines waited for each other. Report the stack to its makers."
    ),
    IncidentKind.OUT_OF_MEMORY: (
        "Give the server more memory, or less to hold: look at its queues and connections before that time."
    ),
    IncidentKind.STACK_OVERFLOW: "A defect of the server: a call without end. Report the stack to its makers.",
    IncidentKind.MEMORY_FAULT: (
        "The server read memory that was not there: a file that was cut while in use, C code, or broken memory. Look"
        " at the kernel's log, then report the stack to its makers."
    ),
    IncidentKind.THREAD_EXHAUSTION: (
        "Raise the limit of threads (ulimit -u, TasksMax of the unit, pids of the container), and find out which calls"
        " do not return: a disk, a name server."
    ),
    IncidentKind.SYNC_MISUSE: (
        "A defect of the server: it unlocked what was not locked. Update it, or report the stack to its makers."
    ),
    IncidentKind.SIGNAL: (
        "Somebody sent the server this signal: a supervisor, a probe, or a person. The stacks tell what it did then."
    ),
    IncidentKind.RUNTIME: (
        "The Go runtime found itself broken: a defect of Go, C code, or broken memory. Report the whole output with the"
        " version of Go."
    ),
    IncidentKind.KILLED: (
        "Somebody killed it by SIGKILL: a supervisor whose patience was over, a person, or the kernel for want of"
        " memory. Look at the kernel's log and at the supervisor's."
    ),
    IncidentKind.UNEXPLAINED: (
        "It went without a word that Forewarn could read. Look at its exit status, at the kernel's log, and at whether"
        " all of its output is read."
    ),
    IncidentKind.DATA_RACE: (
        "A defect that did no harm this time. Report both stacks to its makers before it becomes a crash."
    ),
    IncidentKind.RECOVERED_PANIC: (
        "The server lived on, but what it was doing failed. Report the stack to its makers."
    ),
}
"""By class, for all of them."""
