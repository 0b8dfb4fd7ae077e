package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// S3-compatible storage is found as other tools find it: AWS_ENDPOINT_URL_S3 or AWS_ENDPOINT_URL (AWS itself where neither
// is set), AWS_REGION or AWS_DEFAULT_REGION, and credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY
// (AWS_SESSION_TOKEN), MinIO's variables, the shared credentials file with AWS_PROFILE, or the machine's role. Where there
// are none, or AWS_NO_SIGN_REQUEST is true, requests are anonymous, as for public buckets.
type s3 struct {
	client *minio.Client
	core   minio.Core
	bucket string
}

// s3Attempts and s3Pause are how often a request is made, and the first pause between two, which doubles.
const s3Attempts = 8

var s3Pause = 250 * time.Millisecond

func openS3(ctx context.Context, bucket string) (*s3, error) {
	if bucket == "" {
		return nil, errors.New("no bucket: want s3://bucket/name")
	}
	endpoint := firstOf("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "S3_ENDPOINT_URL")
	secure, host := true, "s3.amazonaws.com"
	if endpoint != "" {
		u, err := url.Parse(endpoint)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, errors.New("AWS_ENDPOINT_URL is not an address as https://storage.example.com")
		}
		secure, host = u.Scheme == "https", u.Host
	}
	lookup := minio.BucketLookupAuto
	if endpoint != "" {
		lookup = minio.BucketLookupPath
	}
	transport, err := minio.DefaultTransport(secure)
	if err != nil {
		return nil, err
	}
	transport.MaxIdleConnsPerHost = 64
	transport.ResponseHeaderTimeout = time.Minute
	client, err := minio.New(host, &minio.Options{
		Creds: s3Credentials(), Secure: secure, BucketLookup: lookup, Transport: transport, MaxRetries: 1,
		Region: firstOf("AWS_REGION", "AWS_DEFAULT_REGION"),
	})
	if err != nil {
		return nil, err
	}
	return &s3{client, minio.Core{Client: client}, bucket}, nil
}

func firstOf(names ...string) string {
	for _, name := range names {
		if v := os.Getenv(name); v != "" {
			return v
		}
	}
	return ""
}

func s3Credentials() *credentials.Credentials {
	if v := strings.ToLower(os.Getenv("AWS_NO_SIGN_REQUEST")); v == "true" || v == "1" || v == "yes" {
		return credentials.NewStaticV4("", "", "")
	}
	providers := []credentials.Provider{&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.FileAWSCredentials{}}
	if os.Getenv("AWS_EC2_METADATA_DISABLED") != "true" && (os.Getenv("AWS_ROLE_ARN") != "" || os.Getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") != "" || onEC2()) {
		providers = append(providers, &credentials.IAM{})
	}
	return credentials.NewChainCredentials(providers) // none = anonymous
}

// onEC2 looks at the machine's name for its maker, so that no other machine waits for an address that is not there.
func onEC2() bool {
	raw, _ := os.ReadFile("/sys/class/dmi/id/sys_vendor")
	return strings.Contains(string(raw), "Amazon EC2")
}

func (s *s3) address(name string) string { return "s3://" + s.bucket + "/" + name }
func (s *s3) remote() bool               { return true }

// retry makes a request until it succeeds, with growing pauses. What waiting cannot change is an error at once.
func (s *s3) retry(ctx context.Context, request func() error) error {
	pause := s3Pause
	for attempt := 1; ; attempt++ {
		err := request()
		if err == nil {
			return nil
		}
		err, passing := explain(err)
		if !passing || ctx.Err() != nil {
			return err
		}
		if attempt == s3Attempts {
			return fmt.Errorf("%w (asked %d times)", err, attempt)
		}
		timer := time.NewTimer(pause/2 + rand.N(pause))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		pause = min(2*pause, 20*time.Second)
	}
}

// explain names what storage refused, without anything that identifies the caller, and says whether it may pass.
func explain(err error) (_ error, passing bool) {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err, false
	}
	var answer minio.ErrorResponse
	errors.As(err, &answer)
	switch answer.Code {
	case "NoSuchKey", "NoSuchBucket", "NoSuchUpload":
		return fmt.Errorf("%s: %w", answer.Code, fs.ErrNotExist), false
	case "ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired":
		return fmt.Errorf("the credentials have expired (%s): renew them, and start again", answer.Code), false
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId":
		return fmt.Errorf("the credentials are not accepted (%s): check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or the profile", answer.Code), false
	case "AccessDenied", "Forbidden", "AllAccessDisabled":
		return denied(answer.Code), false
	case "RequestTimeTooSkewed":
		return errors.New("this machine's clock differs from the storage's (RequestTimeTooSkewed): set it"), false
	}
	var network net.Error
	switch {
	case answer.StatusCode == http.StatusNotFound:
		return fs.ErrNotExist, false
	case answer.StatusCode == http.StatusForbidden || answer.StatusCode == http.StatusUnauthorized:
		return denied(fmt.Sprintf("HTTP %d", answer.StatusCode)), false
	case answer.StatusCode == 0 && answer.Code != "": // made by the client, of an answer that it does not understand
		return fmt.Errorf("the storage's answer is not S3's: %s", answer.Message), false
	case answer.StatusCode >= 500 || answer.StatusCode == http.StatusTooManyRequests || answer.StatusCode == http.StatusRequestTimeout,
		answer.Code == "SlowDown" || answer.Code == "RequestTimeout" || answer.Code == "InternalError" || answer.Code == "ServiceUnavailable":
		return fmt.Errorf("the storage answers %s (HTTP %d)", answer.Code, answer.StatusCode), true
	case errors.As(err, &network), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
		return redact(err), true
	}
	return redact(err), false
}

// denied is what storage answers where the caller may not read, or may not know that there is nothing; it is fs.ErrPermission.
type denied string

func (d denied) Error() string {
	return fmt.Sprintf("access is denied (%s): the credentials, if any, do not allow it", string(d))
}

func (denied) Unwrap() error { return fs.ErrPermission }

// redact takes the address out of an error of the network: a signed one carries secrets.
func redact(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("the storage is not reached: %w", u.Err)
	}
	return err
}

func (s *s3) stat(ctx context.Context, name string) (o object, err error) {
	err = s.retry(ctx, func() error {
		info, err := s.client.StatObject(ctx, s.bucket, name, minio.StatObjectOptions{})
		o = object{name, info.Size, info.ETag}
		return err
	})
	return o, err
}

func (s *s3) list(ctx context.Context, prefix string) (out []object, err error) {
	err = s.retry(ctx, func() error {
		out = nil
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		for info := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if info.Err != nil {
				return info.Err
			}
			if !strings.HasSuffix(info.Key, "/") { // a folder that a console made
				out = append(out, object{info.Key, info.Size, info.ETag})
			}
		}
		return nil
	})
	return out, err
}

// get asks for a part of an object; size −1 = to its end.
func (s *s3) get(ctx context.Context, name string, offset, size int64) (io.ReadCloser, error) {
	var opt minio.GetObjectOptions
	if size >= 0 {
		if err := opt.SetRange(offset, offset+size-1); err != nil {
			return nil, err
		}
	} else if offset > 0 {
		if err := opt.SetRange(offset, 0); err != nil {
			return nil, err
		}
	}
	body, _, _, err := s.core.GetObject(ctx, s.bucket, name, opt)
	return body, err
}

func (s *s3) readAt(ctx context.Context, name string, p []byte, offset int64) error {
	if len(p) == 0 {
		return nil
	}
	return s.retry(ctx, func() error {
		body, err := s.get(ctx, name, offset, int64(len(p)))
		if err != nil {
			return err
		}
		defer body.Close()
		_, err = io.ReadFull(body, p)
		return err
	})
}

func (s *s3) stream(ctx context.Context, name string, offset int64) (body io.ReadCloser, err error) {
	err = s.retry(ctx, func() error {
		body, err = s.get(ctx, name, offset, -1)
		return err
	})
	return body, err
}
