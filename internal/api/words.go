package api

// Word is the state as people and JSON read it: ok, degraded or failed.
func (s VolumeState) Word() string {
	switch s {
	case VolumeState_VOLUME_STATE_OK:
		return "ok"
	case VolumeState_VOLUME_STATE_DEGRADED:
		return "degraded"
	case VolumeState_VOLUME_STATE_FAILED:
		return "failed"
	default:
		return "unknown" // a newer node knows a state that this build does not
	}
}
