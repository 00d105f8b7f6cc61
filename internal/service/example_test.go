package service

import "testing"

// TestExample reads the example of the manual.
func TestExample(t *testing.T) {
	c, err := Load("../../deploy/examples/pgdata.toml")
	if err != nil || len(c.Steps) != 3 || c.Steps[1].Unit == "" {
		t.Errorf("%+v, %v", c, err)
	}
}
