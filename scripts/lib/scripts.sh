# shellcheck shell=bash
# Sourced by make check and scripts/test: finds and checks shell scripts.

# Prints the path of each shell script in Git, recognised by its name or by its first line.
shell_scripts() {
    local file line
    git ls-files --cached --others --exclude-standard | while read -r file; do
        case $file in
        *.sh) printf '%s\n' "$file" ;;
        *)
            [ -f "$file" ] || continue
            LC_ALL=C read -r -n 64 line <"$file" 2>/dev/null || true
            case $line in
            '#!'*bash* | '#!'*/sh*) printf '%s\n' "$file" ;;
            esac
            ;;
        esac
    done
}

# Fails if ShellCheck finds anything, at any severity.
lint_scripts() {
    command -v shellcheck >/dev/null || { echo "there is no shellcheck: run scripts/env setup test" >&2; return 1; }
    local scripts
    mapfile -t scripts < <(shell_scripts)
    [ ${#scripts[@]} -gt 0 ] || { echo "no shell script was found" >&2; return 1; }
    shellcheck --external-sources "${scripts[@]}"
}
