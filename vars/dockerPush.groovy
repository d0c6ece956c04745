/*
 * Pushes an image that this run has built or tagged:
 *
 *     dockerPush(tag: 'registry.example.com/app:1', credentials: 'registry')
 *
 * docs/steps.md has every argument; the table below is what it is checked against.
 */
Map call(Map given = [:]) {
    return wharfCli(step: 'dockerPush', command: 'push', arguments: arguments(), given: given, pushes: true)
}

Map call(Object given) {
    refuse()
}

Map call(Object first, Object second, Object... rest) {
    refuse()
}

void refuse() {
    error("dockerPush takes named arguments, and nothing else: for example dockerPush(tag: 'registry.example.com/app:1')")
}

/** As in dockerBuild. */
@NonCPS
List arguments() {
    return [
        [name: 'addr', takes: 'text', flag: '--addr', global: true],
        [name: 'credentials', takes: 'credentials', flag: null],
        [name: 'metadataFile', takes: 'text', flag: '--metadata-file'],
        [name: 'namespace', takes: 'text', flag: '--namespace', global: true],
        [name: 'progress', takes: 'text', flag: '--progress'],
        [name: 'quiet', takes: 'boolean', flag: '--quiet'],
        [name: 'tag', takes: 'text', flag: null, required: true],
    ]
}
