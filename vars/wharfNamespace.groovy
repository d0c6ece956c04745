/*
 * Runs a block, and then removes everything that the namespace of this run owns:
 *
 *     wharfNamespace {
 *         wharfBuild(tag: 'registry.example.com/app:1', push: true)
 *     }
 *
 * docs/steps.md lists every argument; the table below checks them. dockerNamespace is the same
 * step under another name, which other libraries may have too.
 */
Object call(Closure body) {
    return run('wharfNamespace', [:], body)
}

Object call(Map given, Closure body) {
    return run('wharfNamespace', given, body)
}

Object call(Object... given) {
    refuse('wharfNamespace')
}

/** Runs the step under the name by which it was called. */
Object run(String step, Map given, Closure body) {
    Object result = null
    boolean isDone = false
    try {
        result = inside(given, body)
        isDone = true
    } finally {
        end(step, given, isDone)
    }
    return result
}

/** Runs the block in the namespace, and at the address, that the step was given. */
Object inside(Map given, Closure body) {
    List variables = []
    if (given.namespace != null) {
        variables.add("WHARF_NAMESPACE=${given.namespace}".toString())
    }
    if (given.addr != null) {
        variables.add("WHARF_ADDR=${given.addr}".toString())
    }
    return variables.isEmpty() ? body() : withEnv(variables) { body() }
}

/** Ends the namespace. The error of a block that failed is more important than one of its end. */
void end(String step, Map given, boolean isDone) {
    Map request = [step: step, command: 'namespace rm', arguments: arguments(), given: given]
    if (isDone) {
        wharfCli(request)
        return
    }
    try {
        wharfCli(request)
    } catch (Exception failure) {
        echo('WARNING: ' + failure.message)
    }
}

void refuse(String step) {
    error(step + " takes a block, and before it named arguments, for example " + step + " { dockerBuild(tag: 'app:1') }")
}

/** As in wharfBuild. */
@NonCPS
List arguments() {
    return [
        [name: 'addr', takes: 'text', flag: '--addr', global: true],
        [name: 'job', takes: 'boolean', flag: '--job'],
        [name: 'namespace', takes: 'text', flag: '--namespace', global: true],
        [name: 'token', takes: 'token', flag: '--token-file'],
    ]
}
