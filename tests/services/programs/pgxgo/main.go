// PostgreSQL by pgx, through a pool: prints what it sees.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func main() {
	ctx := context.Background()
	pool, err := pgxpool.New(ctx, os.Args[1])
	must(err)
	defer pool.Close()
	_, err = pool.Exec(ctx, "CREATE TABLE IF NOT EXISTS gorders (id int, item text, price float8)")
	must(err)
	_, err = pool.Exec(ctx, "DELETE FROM gorders")
	must(err)

	var group sync.WaitGroup
	for i := 0; i < 6; i++ {
		group.Add(1)
		go func(id int) {
			defer group.Done()
			_, err := pool.Exec(ctx, "INSERT INTO gorders VALUES ($1, $2, $3)", id, fmt.Sprint("item ", id), float64(id)/2)
			must(err)
		}(i)
	}
	group.Wait()

	batch := &pgx.Batch{}
	for i := 0; i < 3; i++ {
		batch.Queue("SELECT item FROM gorders WHERE id = $1", i)
	}
	results := pool.SendBatch(ctx, batch)
	for i := 0; i < 3; i++ {
		var item string
		must(results.QueryRow().Scan(&item))
		fmt.Println(item)
	}
	must(results.Close())

	copied, err := pool.CopyFrom(ctx, pgx.Identifier{"gorders"}, []string{"id", "item"},
		pgx.CopyFromRows([][]any{{7, "seven"}, {8, nil}}))
	must(err)
	fmt.Println(copied, "copied")

	var count int
	must(pool.QueryRow(ctx, "SELECT count(*) FROM gorders WHERE price > $1 OR price IS NULL", 1.25).Scan(&count))
	fmt.Println(count, "rows")

	var failed *pgconn.PgError
	_, err = pool.Exec(ctx, "SELECT * FROM nonesuch")
	if errors.As(err, &failed) {
		fmt.Println(failed.Code)
	}
}
