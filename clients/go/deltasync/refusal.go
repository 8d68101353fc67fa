package deltasync

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	domain       = "deltasync.v1"
	askedWaitMax = time.Hour // longer waits are mistakes
	attemptsMax  = 12        // about a minute and a half; then somebody should know
)

// Refusal is why a call did not succeed, read from the google.rpc details of its status (R128).
type Refusal struct {
	Code   codes.Code
	Text   string
	Reason string            // the word to decide by; empty: it did not come from the server
	Fields []string          // paths of what is wrong in the request
	Quotas map[string]string // what is used up: whose, and which
	// The server asks to stay away for at least AskedWait, if Asked.
	AskedWait time.Duration
	Asked     bool
}

// RefusalOf reads an error of a call.
func RefusalOf(err error) *Refusal {
	told := status.Convert(err)
	refusal := &Refusal{Code: told.Code(), Text: told.Message(), Quotas: map[string]string{}}
	for _, detail := range told.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.Domain == domain {
				refusal.Reason = detail.Reason
			}
		case *errdetails.RetryInfo:
			wait := detail.GetRetryDelay().AsDuration()
			refusal.AskedWait, refusal.Asked = min(max(wait, 0), askedWaitMax), true
		case *errdetails.BadRequest:
			for _, wrong := range detail.FieldViolations {
				refusal.Fields = append(refusal.Fields, wrong.Field)
			}
		case *errdetails.QuotaFailure:
			for _, quota := range detail.Violations {
				refusal.Quotas[quota.Subject] = quota.Description
			}
		}
	}
	return refusal
}

// MayPass says whether the same call may succeed later, without anybody doing anything.
func (r *Refusal) MayPass() bool {
	switch r.Code {
	case codes.Unavailable, codes.Unknown, codes.Canceled, codes.DeadlineExceeded, codes.Internal:
		return true
	case codes.ResourceExhausted:
		// A quota of bytes does not pass by itself: it says why, and nothing of when.
		return r.Asked || r.Reason == ""
	}
	return false
}

// Error names what is used up, too.
func (r *Refusal) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "%v %s: %s", r.Code, r.Reason, r.Text)
	for whose, which := range r.Quotas {
		fmt.Fprintf(&text, "; used up: %s, %s", whose, which)
	}
	return text.String()
}

// repeat calls until that succeeds, is of no use, or was tried often enough: then its error is a
// *Refusal.
func repeat[T any](
	ctx context.Context, timeout time.Duration, call func(context.Context) (T, error),
) (T, error) {
	return repeatWaiting(ctx, timeout, call, sleep)
}

func repeatWaiting[T any](
	ctx context.Context, timeout time.Duration, call func(context.Context) (T, error),
	sleep func(context.Context, time.Duration) error,
) (T, error) {
	var backoff Backoff
	for attempts := 1; ; attempts++ {
		attempt, cancel := context.WithTimeout(ctx, timeout)
		answer, err := call(attempt)
		cancel()
		if err == nil {
			return answer, nil
		}
		refusal := RefusalOf(err)
		if !refusal.MayPass() || attempts == attemptsMax {
			return answer, refusal
		}
		// The random part on top: not all who were sent away come back together.
		if err := sleep(ctx, refusal.AskedWait+backoff.Next()); err != nil {
			return answer, err
		}
	}
}
