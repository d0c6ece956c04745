/*
 * Describes images of this run, as `docker inspect` does:
 *
 *     def about = wharfInspect(image: 'app:1')
 *     echo about.Config.Labels.toString()
 *
 * docs/steps.md lists every argument; the table below checks them. dockerInspect is the same
 * step under another name, which other libraries may have too.
 */
Object call(Map given = [:]) {
    return run('wharfInspect', given)
}

Object call(Object given) {
    refuse('wharfInspect')
}

Object call(Object first, Object second, Object... rest) {
    refuse('wharfInspect')
}

/** Runs the step under the name by which it was called. */
Object run(String step, Map given) {
    List all = wharfCli(step: step, command: 'inspect', arguments: arguments(), given: given, prints: true)
    return given.image instanceof CharSequence ? all[0] : all
}

void refuse(String step) {
    error(step + " takes only named arguments, for example " + step + "(image: 'app:1')")
}

/** As in wharfBuild. */
@NonCPS
List arguments() {
    return [
        [name: 'addr', takes: 'text', flag: '--addr', global: true],
        [name: 'image', takes: 'list', flag: null, required: true],
        [name: 'namespace', takes: 'text', flag: '--namespace', global: true],
        [name: 'token', takes: 'token', flag: '--token-file'],
    ]
}
