module github.com/wharf-build/wharf/tests/instructions

go 1.25.0

require github.com/moby/buildkit v0.34.2
