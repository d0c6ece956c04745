/*
 * Builds an image with Wharf, in the namespace of this run, and pushes it if asked:
 *
 *     def image = wharfBuild(tag: 'registry.example.com/app:1', push: true)
 *     echo image.digest
 *
 * docs/steps.md lists every argument; the table below checks them. dockerBuild is the same
 * step under another name, which other libraries may have too.
 */
Map call(Map given = [:]) {
    return run('wharfBuild', given)
}

Map call(Object given) {
    refuse('wharfBuild')
}

Map call(Object first, Object second, Object... rest) {
    refuse('wharfBuild')
}

/** Runs the step under the name by which it was called. */
Map run(String step, Map given) {
    return wharfCli(step: step, command: 'build', arguments: arguments(), given: given, pushes: given.push == true)
}

void refuse(String step) {
    error(step + " takes only named arguments, for example " + step + "(tag: 'app:1', push: true)")
}

/**
 * The arguments: their names, the kinds of their values, and their flags. `between` stands between the
 * two halves of a map's entry. The argument without a flag is the operand.
 */
@NonCPS
List arguments() {
    return [
        [name: 'addHosts', takes: 'map', flag: '--add-host', between: ':'],
        [name: 'addr', takes: 'text', flag: '--addr', global: true],
        [name: 'buildArgs', takes: 'map', flag: '--build-arg', between: '=', fromEnvironment: true],
        [name: 'context', takes: 'text', flag: null, otherwise: '.'],
        [name: 'credentials', takes: 'credentials', flag: '--login'],
        [name: 'file', takes: 'text', flag: '--file'],
        [name: 'iidfile', takes: 'text', flag: '--iidfile'],
        [name: 'labels', takes: 'map', flag: '--label', between: '='],
        [name: 'load', takes: 'boolean', flag: '--load'],
        [name: 'metadataFile', takes: 'text', flag: '--metadata-file'],
        [name: 'namespace', takes: 'text', flag: '--namespace', global: true],
        [name: 'network', takes: 'text', flag: '--network'],
        [name: 'noCache', takes: 'boolean', flag: '--no-cache'],
        [name: 'output', takes: 'list', flag: '--output'],
        [name: 'platform', takes: 'text', flag: '--platform'],
        [name: 'progress', takes: 'text', flag: '--progress'],
        [name: 'pull', takes: 'boolean', flag: '--pull'],
        [name: 'push', takes: 'boolean', flag: '--push'],
        [name: 'quiet', takes: 'boolean', flag: '--quiet'],
        [name: 'secrets', takes: 'secrets', flag: '--secret'],
        [name: 'shmSize', takes: 'text', flag: '--shm-size'],
        [name: 'tag', takes: 'list', flag: '--tag'],
        [name: 'target', takes: 'text', flag: '--target'],
        [name: 'token', takes: 'token', flag: '--token-file'],
        [name: 'ulimits', takes: 'map', flag: '--ulimit', between: '='],
    ]
}
