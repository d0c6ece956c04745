/*
 * Gives an image of this run another name, as `docker tag` does:
 *
 *     wharfTag(image: 'app:1', tag: 'registry.example.com/app:stable')
 *
 * docs/steps.md lists every argument; the table below checks them. dockerTag is the same
 * step under another name, which other libraries may have too.
 */
void call(Map given = [:]) {
    run('wharfTag', given)
}

void call(Object given) {
    refuse('wharfTag')
}

void call(Object first, Object second, Object... rest) {
    refuse('wharfTag')
}

/** Runs the step under the name by which it was called. */
void run(String step, Map given) {
    wharfCli(step: step, command: 'tag', arguments: arguments(), given: given, pushes: false)
}

void refuse(String step) {
    error(step + " takes only named arguments, for example " + step + "(image: 'app:1', tag: 'app:stable')")
}

/** As in wharfBuild. */
@NonCPS
List arguments() {
    return [
        [name: 'addr', takes: 'text', flag: '--addr', global: true],
        [name: 'image', takes: 'text', flag: null, required: true],
        [name: 'namespace', takes: 'text', flag: '--namespace', global: true],
        [name: 'tag', takes: 'text', flag: null, required: true],
        [name: 'token', takes: 'token', flag: '--token-file'],
    ]
}
