// Package errgroup stands in for golang.org/x/sync/errgroup while BuildKit is fuzzed: a
// panic in a goroutine would end the fuzzer with it. Here it is a panic of Wait, with the goroutine's stack.
package errgroup

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"
)

// Panic is what a goroutine panicked with, and where.
type Panic struct {
	Value any
	Stack []byte
}

func (p Panic) String() string { return fmt.Sprint(p.Value) }

// FuzzStack is how the fuzzer finds the stack, without this type.
func (p Panic) FuzzStack() []byte { return p.Stack }

// Group has the methods of the original.
type Group struct {
	cancel func(error)
	wg     sync.WaitGroup
	places chan struct{}
	once   sync.Once
	err    error
	mutex  sync.Mutex
	panics *Panic
}

// WithContext returns a group, and a context that ends with its first error.
func WithContext(ctx context.Context) (*Group, context.Context) {
	ctx, cancel := context.WithCancelCause(ctx)
	return &Group{cancel: cancel}, ctx
}

// Wait returns the first error. It panics if a goroutine did.
func (g *Group) Wait() error {
	g.wg.Wait()
	if g.cancel != nil {
		g.cancel(g.err)
	}
	if g.panics != nil {
		panic(*g.panics)
	}
	return g.err
}

// Go runs f in a goroutine, when there is a place.
func (g *Group) Go(f func() error) {
	if g.places != nil {
		g.places <- struct{}{}
	}
	g.run(f)
}

// TryGo is Go, if there is a place at once.
func (g *Group) TryGo(f func() error) bool {
	if g.places != nil {
		select {
		case g.places <- struct{}{}:
		default:
			return false
		}
	}
	g.run(f)
	return true
}

func (g *Group) run(f func() error) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		defer func() {
			if g.places != nil {
				<-g.places
			}
		}()
		defer func() {
			value := recover()
			if value == nil {
				return
			}
			stack := debug.Stack()
			if inner, ok := value.(Panic); ok {
				stack = inner.Stack
			}
			g.mutex.Lock()
			defer g.mutex.Unlock()
			if g.panics == nil {
				g.panics = &Panic{Value: value, Stack: stack}
			}
			g.end(fmt.Errorf("panic: %v", value))
		}()
		if err := f(); err != nil {
			g.end(err)
		}
	}()
}

func (g *Group) end(err error) {
	g.once.Do(func() {
		g.err = err
		if g.cancel != nil {
			g.cancel(err)
		}
	})
}

// SetLimit sets the number of places; a negative number is no limit.
func (g *Group) SetLimit(n int) {
	if n < 0 {
		g.places = nil
		return
	}
	g.places = make(chan struct{}, n)
}
