package deltasync

import (
	"context"
	"crypto/rand"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "deltasync.dev/client/v1"
)

const (
	commitTimeout = 10 * time.Second
	askedWaitMax  = time.Hour // longer waits are mistakes
)

// Put is a mutation that creates or replaces an item.
func Put(collection string, key, value []byte) *v1.Mutation {
	return &v1.Mutation{
		Collection: collection,
		Op:         &v1.Mutation_Put{Put: &v1.PutItem{Key: key, Value: value}},
	}
}

// Commit applies all of the mutations or none. All attempts bear one key, so that a commit whose
// answer was lost is not applied twice (R58, R59).
func Commit(
	ctx context.Context, stub v1.WriteServiceClient, mutations ...*v1.Mutation,
) (*v1.CommitResponse, error) {
	request := &v1.CommitRequest{Mutations: mutations, IdempotencyKey: rand.Text()}
	var backoff Backoff
	for {
		attempt, cancel := context.WithTimeout(ctx, commitTimeout)
		answer, err := stub.Commit(attempt, request)
		cancel()
		if err == nil || !mayPass(err) {
			return answer, err
		}
		asked, _ := askedWait(err)
		if err := sleep(ctx, asked+backoff.Next()); err != nil {
			return nil, err
		}
	}
}

// askedWait is how long the server asks to stay away, at least, if it asks for it (R128).
func askedWait(err error) (time.Duration, bool) {
	for _, detail := range status.Convert(err).Details() {
		if retry, ok := detail.(*errdetails.RetryInfo); ok {
			return min(max(retry.GetRetryDelay().AsDuration(), 0), askedWaitMax), true
		}
	}
	return 0, false
}

func mayPass(err error) bool {
	switch status.Code(err) {
	case codes.Unavailable, codes.Unknown, codes.Canceled, codes.DeadlineExceeded, codes.Internal:
		return true
	case codes.ResourceExhausted:
		// A quota of bytes does not pass by itself: it says why, and nothing of when (R128).
		_, asked := askedWait(err)
		return asked || len(status.Convert(err).Details()) == 0
	}
	return false
}
