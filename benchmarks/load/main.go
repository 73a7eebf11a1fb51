// Command load sends HTTPS requests one after another, each on a new connection with a full
// handshake, or on kept-alive ones (-keep); through a proxy if there is one (-proxy).
//
// wrk cannot: it resumes sessions where the server lets it, verifies no certificate, knows no proxy.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

func main() {
	address := flag.String("connect", "", "dial this address, not the URL's")
	authority := flag.String("ca", "", "trust this file (PEM), not the system's roots")
	proxy := flag.String("proxy", "", "send CONNECT to this address")
	keep := flag.Bool("keep", false, "keep connections alive")
	clients := flag.Int("c", 8, "clients at a time")
	duration := flag.Duration("d", 2*time.Second, "how long")
	flag.Parse()
	target, err := url.Parse(flag.Arg(0))
	check(err)
	if *address == "" {
		found, err := net.LookupHost(target.Hostname())
		check(err)
		*address = net.JoinHostPort(found[0], "443")
	}
	config := &tls.Config{ServerName: target.Hostname(), RootCAs: roots(*authority)}
	request := "GET " + target.Path + " HTTP/1.1\r\nHost: " + target.Host + "\r\n"
	if !*keep {
		request += "Connection: close\r\n"
	}
	dial := func() (*client, error) { return connect(*address, *proxy, config) }
	var done atomic.Int64
	var group sync.WaitGroup
	start := time.Now()
	for range *clients {
		group.Go(func() {
			var current *client
			for time.Since(start) < *duration {
				var err error
				if current == nil {
					current, err = dial()
					check(err)
				}
				check(current.fetch(request + "\r\n"))
				if !*keep {
					current.conn.Close()
					current = nil
				}
				done.Add(1)
			}
		})
	}
	group.Wait()
	fmt.Printf("%d requests in %s\nRequests/sec: %.1f\n",
		done.Load(), time.Since(start), float64(done.Load())/time.Since(start).Seconds())
}

type client struct {
	conn   net.Conn
	reader *bufio.Reader
}

func connect(address, proxy string, config *tls.Config) (*client, error) {
	if proxy == "" {
		conn, err := tls.Dial("tcp", address, config)
		if err != nil {
			return nil, err
		}
		return &client{conn, bufio.NewReader(conn)}, nil
	}
	plain, err := net.Dial("tcp", proxy)
	if err != nil {
		return nil, err
	}
	fmt.Fprintf(plain, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", address, address)
	answer, err := http.ReadResponse(bufio.NewReader(plain), &http.Request{Method: "CONNECT"})
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the proxy says %s", answer.Status)
	}
	conn := tls.Client(plain, config)
	return &client{conn, bufio.NewReader(conn)}, nil
}

func (c *client) fetch(request string) error {
	if _, err := io.WriteString(c.conn, request); err != nil {
		return err
	}
	answer, err := http.ReadResponse(c.reader, nil)
	if err != nil {
		return err
	}
	if _, err = io.Copy(io.Discard, answer.Body); err == nil && answer.StatusCode != http.StatusOK {
		return fmt.Errorf("unexpected answer %s", answer.Status)
	}
	return err
}

func roots(file string) *x509.CertPool {
	if file == "" {
		return nil
	}
	pem, err := os.ReadFile(file)
	check(err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return pool
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}
