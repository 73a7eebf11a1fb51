// A client and a server of quic-go's, for the tests.
//
//	http3go serve ADDRESS CHAIN KEY        says "ready" when it listens
//	http3go both ADDRESS CHAIN KEY         and speaks HTTP/2 at the same TCP port
//	http3go get URL [METHOD SIZE]...       each further pair is one more request to the URL
//	http3go twice URL                      a connection each time, both from one socket
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

type letters struct{}

func (letters) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

func serve(how, address, chain, key string) error {
	next := make(chan bool)
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		size, err := io.Copy(io.Discard, r.Body)
		w.Header().Set("x-version", strconv.Itoa(r.ProtoMajor))
		fmt.Fprintf(w, "%s %s %d %v", r.Method, r.URL.Path, size, err)
	})
	mux.HandleFunc("/large", func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.ParseInt(r.URL.RawQuery, 10, 64)
		io.CopyN(w, letters{}, size)
	})
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "content")
		w.Header().Set("X-Sum", "7")
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusOK)
		io.WriteString(w, "hinted")
	})
	mux.HandleFunc("/broken", func(w http.ResponseWriter, r *http.Request) {
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/cut", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half")
		w.(http.Flusher).Flush()
		<-next
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for number := range 3 {
			if number > 0 {
				<-next
			}
			fmt.Fprintf(w, "data: %d\n\n", number)
			w.(http.Flusher).Flush()
		}
	})
	mux.HandleFunc("/next", func(w http.ResponseWriter, r *http.Request) { next <- true })
	listener, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	pair, err := tls.LoadX509KeyPair(chain, key)
	if err != nil {
		return err
	}
	if how == "both" {
		stream, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		go (&http.Server{Handler: mux}).ServeTLS(stream, chain, key)
	}
	fmt.Println("ready")
	config := http3.ConfigureTLSConfig(&tls.Config{Certificates: []tls.Certificate{pair}})
	return (&http3.Server{Handler: mux, TLSConfig: config}).Serve(listener)
}

func get(url string, more []string) error {
	transport := &http3.Transport{}
	defer transport.Close()
	client := &http.Client{Transport: transport}
	requests := append([]string{"GET", "0"}, more...)
	for i := 0; i+1 < len(requests); i += 2 {
		size, _ := strconv.ParseInt(requests[i+1], 10, 64)
		request, _ := http.NewRequest(requests[i], url, io.LimitReader(letters{}, size))
		if size == 0 {
			request.Body = nil
		}
		answer, err := client.Do(request)
		if err != nil {
			return err
		}
		body := &strings.Builder{}
		count, err := io.Copy(io.MultiWriter(&first{body}, io.Discard), answer.Body)
		fmt.Println(answer.Proto, answer.StatusCode, count, body, answer.Trailer.Get("X-Sum"), err)
	}
	return nil
}

type first struct{ into *strings.Builder }

func (f *first) Write(p []byte) (int, error) {
	if room := 40 - f.into.Len(); room > 0 {
		f.into.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func twice(url string) error {
	socket, err := net.ListenUDP("udp4", nil)
	if err != nil {
		return err
	}
	shared := &quic.Transport{Conn: socket}
	for range 2 {
		transport := &http3.Transport{Dial: func(ctx context.Context, address string, t *tls.Config, q *quic.Config) (*quic.Conn, error) {
			at, err := net.ResolveUDPAddr("udp4", address)
			if err != nil {
				return nil, err
			}
			return shared.Dial(ctx, at, t, q)
		}}
		answer, err := (&http.Client{Transport: transport}).Get(url)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(answer.Body)
		fmt.Println(answer.Proto, answer.StatusCode, len(body), string(body), answer.Trailer.Get("X-Sum"), err)
		transport.Close()
	}
	return nil
}

func main() {
	var err error
	switch os.Args[1] {
	case "serve", "both":
		err = serve(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	case "twice":
		err = twice(os.Args[2])
	default:
		err = get(os.Args[2], os.Args[3:])
	}
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}
