// Kafka by franz-go: produces three records and consumes them, in a group and without one.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func consume(ctx context.Context, options ...kgo.Opt) {
	client, err := kgo.NewClient(options...)
	must(err)
	defer client.Close()
	for seen := 0; seen < 3; {
		fetches := client.PollFetches(ctx)
		must(fetches.Err())
		fetches.EachRecord(func(one *kgo.Record) {
			fmt.Println(string(one.Value))
			seen++
		})
	}
}

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
	defer cancel()
	seeds := kgo.SeedBrokers(os.Args[1])
	client, err := kgo.NewClient(seeds, kgo.AllowAutoTopicCreation())
	must(err)
	for i := 0; i < 3; i++ {
		record := &kgo.Record{Topic: "gorders", Value: []byte(fmt.Sprintf("%s %d", os.Args[2], i))}
		must(client.ProduceSync(ctx, record).FirstErr())
	}
	client.Close()
	start := kgo.ConsumeResetOffset(kgo.NewOffset().AtStart())
	consume(ctx, seeds, kgo.ConsumeTopics("gorders"), start)
	consume(ctx, seeds, kgo.ConsumeTopics("gorders"), start, kgo.ConsumerGroup("shop"))
}
