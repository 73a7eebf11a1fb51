// Ask for each URL at the same time; print the protocol, the status and the length of each answer.
package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
)

func main() {
	lines := make([]string, len(os.Args)-1)
	var all sync.WaitGroup
	for i, url := range os.Args[1:] {
		all.Add(1)
		go func(i int, url string) { // loop variables are shared before Go 1.22
			defer all.Done()
			request, _ := http.NewRequest("GET", url, nil)
			request.Header.Set("TE", "trailers")
			response, err := http.DefaultClient.Do(request)
			if err != nil {
				lines[i] = err.Error()
				return
			}
			size, err := io.Copy(io.Discard, response.Body)
			lines[i] = fmt.Sprintln(response.Proto, response.StatusCode, size, response.Trailer.Get("X-Sum"), err)
		}(i, url)
	}
	all.Wait()
	for _, line := range lines {
		fmt.Print(line)
	}
}
