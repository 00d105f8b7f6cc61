// Package join is errors.Join of the standard library.
package join

import "errors"

// Join is that of the standard library.
func Join(errs ...error) error { return errors.Join(errs...) }
