package deltasync

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

func refused(t *testing.T, code codes.Code, reason string, more ...protoadapt.MessageV1) error {
	t.Helper()
	info := &errdetails.ErrorInfo{Domain: domain, Reason: reason}
	told, err := status.New(code, "no").WithDetails(append(more, info)...)
	if err != nil {
		t.Fatal(err)
	}
	return told.Err()
}

// waits calls what always fails so, and tells the waits between and the last error.
func waits(err error) (waited []time.Duration, last error) {
	fail := func(context.Context) (int, error) { return 0, err }
	note := func(_ context.Context, wait time.Duration) error {
		waited = append(waited, wait)
		return nil
	}
	_, last = repeatWaiting(context.Background(), time.Second, fail, note)
	return waited, last
}

// R128: what is used up and does not come back by itself ends at once, and the error names it.
func TestAQuotaOfBytesIsNotAskedForAgain(t *testing.T) {
	quota := &errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{
		{Subject: "below:users/alice", Description: "stored_bytes: 9 bytes of live items"},
	}}
	waited, err := waits(refused(t, codes.ResourceExhausted, "STORED_BYTES", quota))
	if len(waited) != 0 {
		t.Fatalf("it waited %v", waited)
	}
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Reason != "STORED_BYTES" {
		t.Fatalf("%v", err)
	}
	for _, word := range []string{"below:users/alice", "9 bytes"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%q is not in %q", word, err)
		}
	}
}

// R128: each wait is at least what the server asks for, they are not all alike, and they end.
func TestRetriesWaitAsAskedAndEnd(t *testing.T) {
	asked := 700 * time.Millisecond
	retry := &errdetails.RetryInfo{RetryDelay: durationpb.New(asked)}
	waited, err := waits(refused(t, codes.ResourceExhausted, "COMMIT_RATE", retry))
	if len(waited) != attemptsMax-1 || err == nil {
		t.Fatalf("%d waits, %v", len(waited), err)
	}
	alike := true
	for _, wait := range waited {
		if wait < asked || wait > asked+longestWindow {
			t.Errorf("it waited %v", wait)
		}
		alike = alike && wait == waited[0]
	}
	if alike {
		t.Error("there is no jitter")
	}
}

// R69: what breaks a rule is not sent again, and the field is named.
func TestAFieldThatIsWrongIsNamed(t *testing.T) {
	wrong := &errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{
		{Field: "mutations[3].value", Description: "is too large"},
	}}
	err := refused(t, codes.InvalidArgument, "MALFORMED", wrong)
	if waited, _ := waits(err); len(waited) != 0 {
		t.Errorf("it waited %v", waited)
	}
	if fields := RefusalOf(err).Fields; len(fields) != 1 || fields[0] != "mutations[3].value" {
		t.Errorf("%v", fields)
	}
}

// R59: what the transport says has no details, and may pass.
func TestALostConnectionMayPass(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.ResourceExhausted} {
		if !RefusalOf(status.Error(code, "gone")).MayPass() {
			t.Errorf("%v is taken for final", code)
		}
	}
}
