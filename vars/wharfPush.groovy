/*
 * Pushes images that this run has built or tagged:
 *
 *     wharfPush(tag: 'registry.example.com/app:1', credentials: 'registry')
 *
 * docs/steps.md lists every argument; the table below checks them. dockerPush is the same
 * step under another name, which other libraries may have too.
 */
Object call(Map given = [:]) {
    return run('wharfPush', given)
}

Object call(Object given) {
    refuse('wharfPush')
}

Object call(Object first, Object second, Object... rest) {
    refuse('wharfPush')
}

/** Runs the step under the name by which it was called. A list of names has a list of answers. */
Object run(String step, Map given) {
    Object pushed = wharfCli(step: step, command: 'push', arguments: arguments(), given: given, pushes: true)
    boolean isList = given.tag instanceof Collection || given.tag instanceof Object[]
    return isList && pushed instanceof Map ? [pushed] : pushed
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
        [name: 'tag', takes: 'list', flag: null, required: true],
        [name: 'token', takes: 'token', flag: '--token-file'],
    ]
}
