package cluster

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"
)

// SecretEnv holds the job's secret, SecretFileEnv the path of a file that holds it.
const (
	SecretEnv     = "FEWSTEP_SECRET"
	SecretFileEnv = "FEWSTEP_SECRET_FILE"
)

// shortestSecret is the least number of bytes of a secret that a user gives.
const shortestSecret = 16

// Secret is the job's secret: the content of file where that is not "", else of the variable SecretEnv, else of the file
// that SecretFileEnv names. White space around it does not count.
//
// A Slurm job without one gets a weak one, made of its job number and its user: it keeps jobs apart that meet by accident,
// and keeps nobody out who can list jobs. weak then is true.
func Secret(file string, place Place, env func(string) string) (secret []byte, weak bool, err error) {
	fail := func(format string, args ...any) ([]byte, bool, error) {
		return nil, false, &Failure{Rank: -1, Code: CodeMisplaced, Text: fmt.Sprintf(format, args...)}
	}
	source := SecretEnv
	if file == "" && env(SecretEnv) != "" {
		secret = []byte(env(SecretEnv))
	} else {
		if file == "" {
			file = env(SecretFileEnv)
		}
		if file != "" {
			source = file
			if secret, err = os.ReadFile(file); err != nil {
				return fail("the job's secret: %v", err)
			}
		}
	}
	if secret = bytes.TrimSpace(secret); len(secret) > 0 || source != SecretEnv {
		if len(secret) < shortestSecret {
			return fail("the job's secret in %s has %d bytes: take at least %d, such as those of: openssl rand -hex 32", source, len(secret), shortestSecret)
		}
		return secret, false, nil
	}
	if place.Launcher == LauncherSlurm && place.Job != "" {
		return fmt.Appendf(nil, "slurm %s %s %d", place.Job, env("SLURM_CLUSTER_NAME"), os.Getuid()), true, nil
	}
	return fail("the ranks need a secret that all of them know: put one into %s or name its file by %s or --secret-file, such as that of: openssl rand -hex 32",
		SecretEnv, SecretFileEnv)
}

// errOtherSecret says that the other end of a connection has not this job's secret.
var errOtherSecret = errors.New("it has another secret")

// credentials make both ends of a connection prove that they have the secret: its key signs the TLS handshake. Nothing else
// about a certificate counts, so that clocks and names may be wrong.
func credentials(secret []byte) (*tls.Config, error) {
	seed, err := hkdf.Key(sha256.New, secret, nil, "fewstep rendezvous 1", ed25519.SeedSize)
	if err != nil {
		return nil, err
	}
	key := ed25519.NewKeyFromSeed(seed)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Date(9999, 1, 1, 0, 0, 0, 0, time.UTC)}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		Certificates:       []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
		ClientAuth:         tls.RequireAnyClientCert,
		InsecureSkipVerify: true, // the check is VerifyConnection's
		VerifyConnection: func(state tls.ConnectionState) error {
			if len(state.PeerCertificates) > 0 && key.Public().(ed25519.PublicKey).Equal(state.PeerCertificates[0].PublicKey) {
				return nil
			}
			return errOtherSecret
		},
		SessionTicketsDisabled: true,
	}, nil
}
