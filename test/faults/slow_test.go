package faults

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// dribble begins a request and then sends a byte now and then, until the server has
// enough. The error says that it hadn't.
func dribble(address, begin string) error {
	raw, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer raw.Close()
	conn := raw
	if begin != "" {
		conn = tls.Client(raw, &tls.Config{InsecureSkipVerify: true})
		if _, err := io.WriteString(conn, begin); err != nil {
			return err
		}
	}
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, conn) // an answer, or the end
		close(ended)
	}()
	for start := time.Now(); time.Since(start) < 5*stall; {
		select {
		case <-ended:
			return nil
		case <-time.After(stall / 10):
			if begin != "" {
				_, _ = io.WriteString(conn, "x") // it may be over
			}
		}
	}
	return fmt.Errorf("%q holds a connection for ever", begin[:min(len(begin), 20)])
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
