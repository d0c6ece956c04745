/*
 * Brings an image from a registry into the namespace of this run, as `docker pull` does:
 *
 *     wharfPull(image: 'registry.example.com/app:1', credentials: 'registry')
 *
 * docs/steps.md lists every argument; the table below checks them. dockerPull is the same
 * step under another name, which other libraries may have too.
 */
void call(Map given = [:]) {
    run('wharfPull', given)
}

void call(Object given) {
    refuse('wharfPull')
}

void call(Object first, Object second, Object... rest) {
    refuse('wharfPull')
}

/** Runs the step under the name by which it was called. */
void run(String step, Map given) {
    wharfCli(step: step, command: 'pull', arguments: arguments(), given: given, pushes: false)
}

void refuse(String step) {
    error(step + " takes only named arguments, for example " + step + "(image: 'registry.example.com/app:1')")
}

/** As in wharfBuild. */
@NonCPS
List arguments() {
    return [
        [name: 'addr', takes: 'text', flag: '--addr', global: true],
        [name: 'credentials', takes: 'credentials', flag: '--login'],
        [name: 'image', takes: 'text', flag: null, required: true],
        [name: 'namespace', takes: 'text', flag: '--namespace', global: true],
        [name: 'progress', takes: 'text', flag: '--progress'],
        [name: 'quiet', takes: 'boolean', flag: '--quiet'],
        [name: 'token', takes: 'token', flag: '--token-file'],
    ]
}
