package deltasync

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
)

// Connect is a connection in plain text, or over TLS: caFile has the authority that vouches for the
// server, token is shown with every call, and over TLS only (R1, R2).
func Connect(address, caFile, token string) (*grpc.ClientConn, error) {
	if caFile == "" {
		return grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, err
	}
	trusted := x509.NewCertPool()
	if !trusted.AppendCertsFromPEM(pem) {
		return nil, errors.New(caFile + " holds no certificate")
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{RootCAs: trusted})),
	}
	if token != "" {
		options = append(options, grpc.WithPerRPCCredentials(bearer(token)))
	}
	return grpc.NewClient(address, options...)
}

// bearer is a token as metadata.
type bearer string

// GetRequestMetadata is what every call shows.
func (b bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(b)}, nil
}

// RequireTransportSecurity: a token never travels in plain text.
func (bearer) RequireTransportSecurity() bool { return true }
