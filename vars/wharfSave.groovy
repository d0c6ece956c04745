/*
 * Saves images of this run to a tar, as `docker save` does:
 *
 *     wharfSave(image: 'registry.example.com/app:1', output: 'app.tar')
 *
 * docs/steps.md lists every argument; the table below checks them. dockerSave is the same
 * step under another name, which other libraries may have too.
 */
void call(Map given = [:]) {
    run('wharfSave', given)
}

void call(Object given) {
    refuse('wharfSave')
}

void call(Object first, Object second, Object... rest) {
    refuse('wharfSave')
}

/** Runs the step under the name by which it was called. */
void run(String step, Map given) {
    wharfCli(step: step, command: 'save', arguments: arguments(), given: given, pushes: false)
}

void refuse(String step) {
    error(step + " takes only named arguments, for example " + step + "(image: 'app:1', output: 'app.tar')")
}

/** As in wharfBuild. */
@NonCPS
List arguments() {
    return [
        [name: 'addr', takes: 'text', flag: '--addr', global: true],
        [name: 'image', takes: 'list', flag: null, required: true],
        [name: 'namespace', takes: 'text', flag: '--namespace', global: true],
        [name: 'output', takes: 'text', flag: '--output', required: true],
        [name: 'progress', takes: 'text', flag: '--progress'],
        [name: 'quiet', takes: 'boolean', flag: '--quiet'],
        [name: 'token', takes: 'token', flag: '--token-file'],
    ]
}
