// Package ledger stands in for a dependency: its version is in the paths that a crash prints.
package ledger

// Entry is one line of a ledger.
type Entry struct{ Amount int }

// Ledger has a method on a pointer, as most code that crashes.
type Ledger struct{ entries map[string]*Entry }

// New returns an empty ledger.
func New() *Ledger { return &Ledger{entries: map[string]*Entry{}} }

// Post reads an entry that is not there.
//
//go:noinline
func (l *Ledger) Post(name string, amount int) {
	l.entries[name].Amount += amount
}

// Pool is generic.
type Pool[T any] struct{ free []T }

// Take fails on an empty pool.
//
//go:noinline
func (p *Pool[T]) Take(index int) T { return p.free[index] }
