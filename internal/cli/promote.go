package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"blkd/internal/api"
)

func (a *app) promoteCommand() *cobra.Command {
	var req api.PromoteRequest
	var reason string
	cmd := &cobra.Command{
		Use:   "promote VOLUME [--to NODE]",
		Short: "Makes another replica the primary, and proves that nothing was lost",
		Long: `Makes another replica of a volume the primary, and answers when it serves. If the
present primary answers, it hands over and clients see no error; if not, it is a
failover. It says which of the two it was, and prints a certificate: who promised
what, whose log was taken, and when the old primary could no longer serve. The
history of the volume keeps it.

It refuses (exit code 6) as long as acknowledged writes might be lost; with
--force --reason TEXT it takes the best log that it can reach, and keeps what that
lacks as a volume of its own, to be read and compared. --dry-run says who would
win and why, and what would be lost, and changes nothing; its exit code is 6 if
it would be refused.`,
		Example: `  blkctl promote pgdata
  blkctl promote pgdata --to n2 --dry-run
  blkctl promote pgdata --to n3 --force --reason "n1 and n2 burnt down"`,
		Args:              arguments(1, 1),
		ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			if req.Force && reason == "" && !req.DryRun {
				return errors.New("--force may lose acknowledged writes: say why, with --reason TEXT for the history")
			}
			req.Name, req.Request = args[0], newRequest(reason)
			return a.promote(cmd.Context(), &req)
		},
	}
	cmd.Flags().StringVar(&req.To, "to", "", "the `NODE` that shall be primary (default: the best one other than the present)")
	cmd.Flags().BoolVar(&req.DryRun, "dry-run", false, "only say what would happen")
	cmd.Flags().BoolVar(&req.Force, "force", false, "even if acknowledged writes may be lost")
	reasonFlag(cmd, &reason)
	cmd.RegisterFlagCompletionFunc("to", a.completeNodeFlag)
	return cmd
}

// primaryCommand and secondaryCommand are for hands that know DRBD, whose commands
// are about the machine that they are typed on.
func (a *app) primaryCommand() *cobra.Command {
	return a.hereCommand("primary VOLUME", "Makes this machine's node the primary; see promote",
		func(req *api.PromoteRequest, here string) { req.To = here })
}

func (a *app) secondaryCommand() *cobra.Command {
	return a.hereCommand("secondary VOLUME", "Lets another node be primary, if this machine's is; see promote",
		func(req *api.PromoteRequest, here string) { req.From = here })
}

func (a *app) hereCommand(use, short string, set func(req *api.PromoteRequest, here string)) *cobra.Command {
	var reason string
	cmd := &cobra.Command{Use: use, Short: short, Hidden: true, Args: arguments(1, 1), ValidArgsFunction: a.completeVolume,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(a.nodes) > 0 {
				return fmt.Errorf("%s is about the node of this machine; with --node write: blkctl promote %s --to NODE", cmd.Name(), args[0])
			}
			req := &api.PromoteRequest{Name: args[0], Request: newRequest(reason)}
			err := a.call(cmd.Context(), func(ctx context.Context, n *node) error {
				answer, err := n.node.Status(ctx, &api.StatusRequest{Volume: args[0]})
				set(req, answer.GetNode())
				return called(err)
			})
			if err != nil {
				return err
			}
			return a.promote(cmd.Context(), req)
		},
	}
	reasonFlag(cmd, &reason)
	return cmd
}

func (a *app) promote(ctx context.Context, req *api.PromoteRequest) error {
	return a.call(ctx, func(ctx context.Context, n *node) error {
		answer, err := n.volumes.Promote(ctx, req)
		if err != nil {
			return called(err)
		}
		p := newPromotion(answer)
		if err := show(a.Out, a.output, promotionResult(req.Name, p)); err != nil {
			return err
		}
		if p.DryRun && p.To == "" {
			return &Error{Code: Refused, Text: "it would be refused", quiet: true}
		}
		return nil
	})
}

func promotionResult(volume string, p Promotion) result {
	return result{data: p, names: []string{p.To}, table: func(w io.Writer, _ bool) { promotionSheet(w, volume, p) }}
}

func promotionSheet(w io.Writer, volume string, p Promotion) {
	fmt.Fprintf(w, "%s\n", p.headline(volume))
	if len(p.Losses) == 0 && p.To != "" && p.Kind != "none" {
		row(w, "lost", "nothing")
	}
	lines(w, "lost", p.Losses)
	lines(w, "cut off", p.Tails)
	lines(w, "because", p.Reasons)
	if p.Certificate != nil {
		certificateSheet(w, p.Certificate)
		return
	}
	if len(p.Candidates) > 0 {
		fmt.Fprintln(w)
		candidateTable(w, p.Candidates)
	}
}

// headline says in one line what was, or would be, done.
func (p *Promotion) headline(volume string) string {
	took := ""
	if p.TookSeconds != nil {
		took = ", in " + roughSeconds(*p.TookSeconds)
	}
	if p.DryRun {
		if p.To == "" {
			return "nothing was changed; promote " + volume + " would be refused"
		}
		return fmt.Sprintf("nothing was changed; promote %s would be: %s%s", volume, p.what(), took)
	}
	return fmt.Sprintf("%s: %s%s%s", volume, p.what(), p.Certificate.generations(), took)
}

func (p *Promotion) what() string {
	switch p.Kind {
	case "none":
		return "nothing to do, the primary is " + orDash(p.To)
	case "handover":
		return fmt.Sprintf("hand-over from %s to %s", p.From, p.To)
	case "failover":
		return fmt.Sprintf("failover from %s to %s", p.From, p.To)
	case "forced":
		return fmt.Sprintf("FORCED promotion of %s, before it was %s", p.To, orDash(p.From))
	default:
		return p.To + " is primary"
	}
}

func candidateTable(w io.Writer, list []Candidate) {
	row(w, "NODE", "ELIGIBLE", "LOG END", "DURABLE", "COMMITTED", "WHY")
	for _, c := range list {
		durable, committed := "-", "-"
		if c.End != nil {
			durable, committed = fmt.Sprint(c.DurableSeq), fmt.Sprint(c.CommitSeq)
		}
		row(w, c.Node, yesNo(c.Eligible), c.End.words(), durable, committed, orDash(c.Why))
	}
}

// words is a place in the log, for people: generation/seq, or seq alone where the
// generation is not known.
func (e *LogEnd) words() string {
	switch {
	case e == nil:
		return "-"
	case e.Generation == 0:
		return fmt.Sprint(e.Seq)
	default:
		return fmt.Sprintf("%d/%d", e.Generation, e.Seq)
	}
}
