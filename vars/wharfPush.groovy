/*
 * Pushes an image that this run has built or tagged:
 *
 *     wharfPush(tag: 'registry.example.com/app:1', credentials: 'registry')
 *
 * docs/steps.md lists every argument; the table below checks them. dockerPush is the same
 * step under another name, which other libraries may have too.
 */
Map call(Map given = [:]) {
    return run('wharfPush', given)
}

Map call(Object given) {
    refuse('wharfPush')
}

Map call(Object first, Object second, Object... rest) {
    refuse('wharfPush')
}

/** Runs the step under the name by which it was called. */
Map run(String step, Map given) {
    return wharfCli(step: step, command: 'push', arguments: arguments(), given: given, pushes: true)
}

void refuse(String step) {
    error(step + " takes only named arguments, for example " + step + "(tag: 'registry.example.com/app:1')")
}

/** As in wharfBuild. */
@NonCPS
List arguments() {
    return [
        [name: 'addr', takes: 'text', flag: '--addr', global: true],
        [name: 'credentials', takes: 'credentials', flag: '--login'],
        [name: 'metadataFile', takes: 'text', flag: '--metadata-file'],
        [name: 'namespace', takes: 'text', flag: '--namespace', global: true],
        [name: 'progress', takes: 'text', flag: '--progress'],
        [name: 'quiet', takes: 'boolean', flag: '--quiet'],
        [name: 'tag', takes: 'text', flag: null, required: true],
        [name: 'token', takes: 'token', flag: '--token-file'],
    ]
}
