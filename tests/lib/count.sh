# shellcheck shell=bash
# Sourced by runners of tests that run several programs.

# Shows the programs' output and adds up their counts; fails if a test failed, or if there was none.
count() {
    local log counts ok bad passed=0 failed=0
    for log in "$@"; do
        grep -v '^[0-9]* passed, [0-9]* failed$' "$log" || true
        # A program without a count has failed as a whole.
        counts=$(sed -n 's/^\([0-9]*\) passed, \([0-9]*\) failed$/\1 \2/p' "$log" | tail -n 1)
        read -r ok bad <<<"${counts:-0 1}"
        passed=$((passed + ok)) failed=$((failed + bad))
    done
    echo "$passed passed, $failed failed"
    [ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
}
