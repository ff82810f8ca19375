// Crashes ends in each of the ways in which a Go program can. Its one argument names the way.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"time"

	"example.com/acme/ledger"
)

var ways = map[string]func(){
	"map-writes":          mapWrites,
	"map-read-write":      mapReadAndWrite,
	"map-iteration-write": mapIterationAndWrite,

	"nil-dereference":   nilDereference,
	"nil-in-goroutine":  nilInGoroutine,
	"panic-text":        panicText,
	"panic-empty":       panicEmpty,
	"panic-error":       panicError,
	"panic-type":        panicType,
	"panic-pointer":     panicPointer,
	"panic-number":      panicNumber,
	"panic-lines":       panicLines,
	"panic-stack":       panicWithStack,
	"panic-control":     panicControl,
	"panic-nil":         panicNil,
	"panic-index":       panicIndex,
	"panic-divide":      panicDivide,
	"panic-closed":      panicClosed,
	"panic-repeat":      panicRepeat,
	"panic-in-defer":    panicInDefer,
	"panic-in-closure":  panicInClosure,
	"panic-in-once":     panicInOnce,
	"panic-many":        panicAmongMany,
	"repanic":           repanic,
	"repanic-new":       repanicNew,
	"repanic-goroutine": repanicInGoroutine,

	"deadlock":               deadlock,
	"deadlock-goexit":        deadlockAfterGoexit,
	"deadlock-no-goroutines": deadlockWithoutGoroutines,

	"stack-overflow": stackOverflow,
	"fault":          fault,
	"fault-bus":      faultBus,
	"out-of-memory":  outOfMemory,
	"threads":        threads,
	"threads-kernel": threadsOfTheKernel,

	"unlock":          unlock,
	"unlock-rw":       unlockRW,
	"unlock-read":     unlockRead,
	"unlock-in-defer": unlockInDefer,
	"throw":           throw,

	"sigquit": func() { signalled(syscall.SIGQUIT) },
	"sigabrt": func() { signalled(syscall.SIGABRT) },
	"sigsegv": func() { signalled(syscall.SIGSEGV) },
	"sigterm": func() { signalled(syscall.SIGTERM) },

	"race":      race,
	"race-main": raceWithMain,

	"http-panic":  httpPanic,
	"http-abort":  httpAbort,
	"json-stack":  jsonStack,
	"print-stack": debug.PrintStack,
	"log-fatal":   logFatal,
	"exit":        exit,
}

func main() {
	way, found := ways[os.Args[1]]
	if !found {
		os.Exit(64)
	}
	noCore := syscall.Rlimit{}
	if syscall.Setrlimit(syscall.RLIMIT_CORE, &noCore) != nil {
		os.Exit(65)
	}
	way()
}

type custom struct{ text string }

type number int

// park waits without letting the runtime believe that nothing can ever happen again.
func park() { time.Sleep(time.Minute) }

//go:noinline
func dereference(entry *ledger.Entry) { entry.Amount++ }

func concurrently(does ...func()) {
	for i := 0; i < 2; i++ {
		for _, do := range does {
			do := do
			go func() {
				for {
					do()
				}
			}()
		}
	}
	park()
}

func write(m map[int]int) {
	for i := 0; i < 64; i++ {
		m[i]++
	}
}

func mapWrites() {
	m := map[int]int{}
	concurrently(func() { write(m) })
}

func mapReadAndWrite() {
	m := map[int]int{0: 0}
	concurrently(func() { write(m) }, func() {
		for i := 0; i < 64; i++ {
			_ = m[i]
		}
	})
}

func mapIterationAndWrite() {
	m := map[int]int{}
	for i := 0; i < 1000; i++ {
		m[i] = i
	}
	go func() {
		for {
			write(m)
		}
	}()
	for {
		for range m {
			runtime.Gosched()
		}
	}
}

func nilDereference() { ledger.New().Post("rent", 7) }
func nilInGoroutine() { go dereference(nil); park() }
func panicText()      { panic("out of cheese") }
func panicEmpty()     { panic("") }
func panicError()     { panic(fmt.Errorf("reading rolls: %w", errors.New("no such job"))) }
func panicType()      { panic(custom{"odd"}) }
func panicPointer()   { panic(&custom{"odd"}) }
func panicNumber()    { panic(number(5)) }
func panicLines()     { panic("first line\nsecond line\n\ngoroutine 99 [running]:\nlast line") }
func panicControl()   { panic("red \x1b[31mtext\x00 \xff\xfe \u202eback\r end") }
func panicNil()       { panic(nil) }
func panicIndex()     { (&ledger.Pool[string]{}).Take(len(os.Args)) }
func panicDivide()    { fmt.Println(7 / (len(os.Args) - 2)) }
func panicClosed()    { c := make(chan int); close(c); close(c) }
func panicRepeat()    { fmt.Println(strings.Repeat("x", 1-len(os.Args))) }
func panicInClosure() { each(func(int) { panic("deep") }) }
func panicInOnce()    { new(sync.Once).Do(func() { panic("once") }) }

//go:noinline
func each(do func(int)) { do(1) }

//go:noinline
func origin() { ledger.New().Post("rent", 7) }

func repanic()            { defer again(); origin() }
func repanicNew()         { defer wrapped(); origin() }
func repanicInGoroutine() { go repanic(); park() }

func again() {
	if recovered := recover(); recovered != nil {
		panic(recovered)
	}
}

func wrapped() {
	if recovered := recover(); recovered != nil {
		panic(fmt.Sprintf("while paying: %v", recovered))
	}
}

func panicWithStack() {
	defer func() { panic(fmt.Sprintf("%v\n%s", recover(), debug.Stack())) }()
	origin()
}

func panicInDefer() {
	defer func() { panic("in the deferred") }()
	panic("in the function")
}

// panicAmongMany panics in a program whose goroutines wait in several ways.
func panicAmongMany() {
	hold := make(chan int)
	var mutex sync.Mutex
	var group sync.WaitGroup
	mutex.Lock()
	group.Add(1)
	for i := 0; i < 5; i++ {
		go func() { <-hold }()
		go func() { hold <- 1; <-make(chan int) }()
		go mutex.Lock()
		go group.Wait()
		go func() { select {} }()
		go park()
	}
	go func() { runtime.LockOSThread(); select {} }()
	time.Sleep(100 * time.Millisecond)
	origin()
}

func lockTwice() {
	var mutex sync.Mutex
	mutex.Lock()
	mutex.Lock()
}

func deadlock() {
	var group sync.WaitGroup
	group.Add(1)
	go lockTwice()
	group.Wait()
}

func deadlockAfterGoexit() { go lockTwice(); runtime.Goexit() }

func deadlockWithoutGoroutines() { runtime.Goexit() }

func stackOverflow() { debug.SetMaxStack(1 << 20); fmt.Println(descend(1)) }

//go:noinline
func descend(depth int) int { return descend(depth+1) + 1 }

func fault() {
	page, err := syscall.Mmap(-1, 0, 4096, syscall.PROT_READ, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		os.Exit(65)
	}
	page[0] = 1
}

func faultBus() {
	file, err := os.CreateTemp("", "")
	if err != nil {
		os.Exit(65)
	}
	os.Remove(file.Name())
	page, err := syscall.Mmap(int(file.Fd()), 0, 4096, syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		os.Exit(65)
	}
	fmt.Println(page[0])
}

func outOfMemory() {
	limit := syscall.Rlimit{Cur: 1 << 31, Max: 1 << 31}
	if syscall.Setrlimit(syscall.RLIMIT_AS, &limit) != nil {
		os.Exit(65)
	}
	var hoard [][]byte
	for {
		hoard = append(hoard, make([]byte, 256<<20))
	}
}

func block() {
	var ends [2]int
	if syscall.Pipe(ends[:]) != nil {
		os.Exit(65)
	}
	syscall.Read(ends[0], make([]byte, 1))
}

func threads() {
	debug.SetMaxThreads(12)
	for i := 0; i < 15; i++ {
		go block()
	}
	park()
}

// threadsOfTheKernel is refused more threads by the kernel. Root is not bound by such a limit, so it turns into nobody.
func threadsOfTheKernel() {
	const processes = 6 // RLIMIT_NPROC
	if os.Getuid() == 0 && syscall.Setuid(65534) != nil {
		os.Exit(65)
	}
	limit := syscall.Rlimit{Cur: 1, Max: 1}
	if syscall.Setrlimit(processes, &limit) != nil {
		os.Exit(65)
	}
	for i := 0; i < 15; i++ {
		go block()
	}
	park()
}

func unlock()     { new(sync.Mutex).Unlock() }
func unlockRW()   { new(sync.RWMutex).Unlock() }
func unlockRead() { new(sync.RWMutex).RUnlock() }

func unlockInDefer() {
	defer new(sync.Mutex).Unlock()
	panic("while it is held")
}

func throw() { var nothing func(); go nothing() }

func signalled(signal syscall.Signal) {
	go func() { <-make(chan int) }()
	time.Sleep(50 * time.Millisecond)
	syscall.Kill(os.Getpid(), signal)
	park()
}

var shared int

//go:noinline
func add() { shared++ }

//go:noinline
func look() int { return shared }

func race() {
	done := make(chan int, 2)
	go func() { add(); done <- 1 }()
	time.Sleep(50 * time.Millisecond)
	go func() { _ = look(); done <- 1 }()
	<-done
	<-done
	fmt.Fprintln(os.Stderr, "still here")
}

func raceWithMain() {
	done := make(chan int)
	go func() { add(); close(done) }()
	time.Sleep(50 * time.Millisecond)
	_ = look()
	<-done
}

func serve(handler http.HandlerFunc) {
	server := httptest.NewServer(handler)
	defer server.Close()
	if answer, err := http.Get(server.URL); err == nil {
		io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
	}
}

func pay(http.ResponseWriter, *http.Request) { origin() }

func httpPanic() { serve(pay) }

func httpAbort() { serve(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }) }

// jsonStack recovers and logs the stack as JSON loggers do: in one string.
func jsonStack() {
	defer func() {
		json.NewEncoder(os.Stderr).Encode(map[string]string{
			"level": "error",
			"msg":   fmt.Sprintf("panic-ed for request: [pay] with err: %v with Stack: %s", recover(), debug.Stack()),
		})
	}()
	origin()
}

func logFatal() { log.Fatal("panic: not at all") }

func exit() { os.Exit(3) }
