// Get a url and tell what came of it: status and size, or the error.
package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"
)

func main() {
	patience, _ := time.ParseDuration(os.Args[2])
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	request, _ := http.NewRequestWithContext(ctx, "POST", os.Args[1], nil)
	request.Method = "GET"
	transport := &http.Transport{DisableKeepAlives: true, ForceAttemptHTTP2: true}
	reply, err := (&http.Client{Transport: transport}).Do(request)
	if err != nil {
		fmt.Println(err)
		return
	}
	body, err := io.ReadAll(reply.Body)
	if err != nil {
		fmt.Printf("after %d: %v\n", len(body), err)
		return
	}
	fmt.Println(reply.StatusCode, len(body))
}
