package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// worker is the first argument of this program as a process beside itself, so that
// what clients and servers cost is not mixed up with the rest.
const worker = "worker"

// A report is what a worker prints.
type report struct {
	Seconds  float64
	Bytes    int64 // of bodies
	Requests int64
	Errors   int64
	P50, P99 float64 // seconds
}

// work is the worker: the address of a server, then what to do with it.
//
//	files ADDRESS DIR CERT KEY       serve the files of a directory
//	get ADDRESS PATH CLIENTS         download at once
//	burst ADDRESS PATHS CLIENTS      ask once each at the same moment
//	rate ADDRESS PATH CLIENTS HEADER ask again and again for a few seconds
func work(args []string) {
	var r report
	var err error
	switch args[0] {
	case "files":
		err = http.ListenAndServeTLS(args[1], args[3], args[4], http.FileServer(http.Dir(args[2])))
	default:
		var n int
		if n, err = strconv.Atoi(args[3]); err == nil {
			r, err = load(args[0], args[1], strings.Split(args[2], ","), n, args[4:])
		}
	}
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(r)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func load(what, address string, paths []string, n int, header []string) (report, error) {
	clients := make([]*asker, n)
	for i := range clients {
		a, err := newAsker(address)
		if err != nil {
			return report{}, err
		}
		defer a.conn.Close()
		path := paths[i%len(paths)]
		a.request = "GET " + path + " HTTP/1.1\r\nHost: " + address + "\r\n" +
			strings.Join(append(header, ""), "\r\n") + "\r\n"
		clients[i] = a
	}
	if what == "rate" {
		return together(clients, 4*time.Second), nil
	}
	return together(clients, 0), nil
}

// asker is a connection over which requests go one by one.
type asker struct {
	conn    net.Conn
	in      *bufio.Reader
	body    []byte
	request string
}

func newAsker(address string) (*asker, error) {
	conn, err := tls.Dial("tcp", address, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS13})
	if err != nil {
		return nil, err
	}
	return &asker{conn: conn, in: bufio.NewReaderSize(conn, 16<<10), body: make([]byte, 16<<10)}, nil
}

// ask sends the request and gives the bytes of the answer's body.
func (a *asker) ask() (int64, error) {
	if _, err := io.WriteString(a.conn, a.request); err != nil {
		return 0, err
	}
	resp, err := http.ReadResponse(a.in, nil)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, resp.Body, a.body)
	if err == nil && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusNotModified {
		err = fmt.Errorf("answered %s", resp.Status)
	}
	return n, err
}

// together lets all ask at the same moment: once, or for some time. Latencies
// are from that moment on for who asks once.
func together(clients []*asker, span time.Duration) report {
	var r report
	var mu sync.Mutex
	var took []float64
	var bytes, requests, failed atomic.Int64
	var ready, done sync.WaitGroup
	gate := make(chan struct{})
	var start time.Time
	for _, a := range clients {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-gate
			for at := start; ; at = time.Now() {
				n, err := a.ask()
				bytes.Add(n)
				requests.Add(1)
				mu.Lock()
				took = append(took, time.Since(at).Seconds())
				mu.Unlock()
				if err != nil {
					failed.Add(1)
					return
				}
				if time.Since(start) >= span {
					return
				}
			}
		})
	}
	ready.Wait()
	start = time.Now()
	close(gate)
	done.Wait()
	r.Seconds = time.Since(start).Seconds()
	r.Bytes, r.Requests, r.Errors = bytes.Load(), requests.Load(), failed.Load()
	slices.Sort(took)
	r.P50, r.P99 = took[len(took)/2], took[len(took)*99/100]
	return r
}
