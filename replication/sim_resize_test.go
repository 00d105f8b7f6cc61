package replication

// simSize is how large the volume is that a simulation begins with, in bytes.
const simSize = 64 * blockSize

// grow has a primary make the volume a block larger. Requests beyond the old end
// follow at once, while the others may not have heard of it.
func (s *sim) grow() {
	for _, n := range s.nodes {
		if !s.awake(n) || n.core.role != Primary || n.disk.size > 2*simSize {
			continue
		}
		size := n.disk.size + blockSize
		if _, err := n.core.Resize(s.clock(n), size); err == nil {
			s.resizes++
			s.logf("%s makes the volume %d bytes large", n.name, size)
		}
		s.effects(n)
	}
}
