// Get a URL with net/http: get [-k] [-cacert FILE] [-cert FILE] URL.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"io"
	"net/http"
	"os"
)

func main() {
	insecure := flag.Bool("k", false, "do not verify")
	ca := flag.String("cacert", "", "roots")
	cert := flag.String("cert", "", "certificate and key")
	flag.Parse()
	config := &tls.Config{InsecureSkipVerify: *insecure}
	if *ca != "" {
		pem, err := os.ReadFile(*ca)
		check(err)
		config.RootCAs = x509.NewCertPool()
		config.RootCAs.AppendCertsFromPEM(pem)
	}
	if *cert != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *cert)
		check(err)
		config.Certificates = []tls.Certificate{pair}
	}
	client := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
	response, err := client.Get(flag.Arg(0))
	check(err)
	_, err = io.Copy(os.Stdout, response.Body)
	check(err)
}

func check(err error) {
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
}
