package cli

import (
	"github.com/spf13/cobra"

	"blkd/fio"
)

// benchCommand is package fio's command. It talks to NBD servers of any make, so
// it has nothing to do with the control socket.
func (a *app) benchCommand() *cobra.Command {
	cmd := fio.Command()
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := run(cmd, args); err != nil {
			return &Error{Code: Failed, Text: err.Error()}
		}
		return nil
	}
	return cmd
}
