/*
 * Runs a block in which every step uses a login for a registry:
 *
 *     wharfRegistry(credentialsId: 'registry', url: 'https://registry.example.com') {
 *         wharfBuild(tag: 'registry.example.com/app:1', push: true)
 *     }
 *
 * docs/steps.md lists every argument; the table below checks them. dockerRegistry is the same
 * step under another name, which other libraries may have too.
 */
Object call(Closure body) {
    return run('wharfRegistry', [:], body)
}

Object call(Map given, Closure body) {
    return run('wharfRegistry', given, body)
}

Object call(Object... given) {
    refuse('wharfRegistry')
}

/**
 * Runs the step under the name by which it was called. The login is in variables, and WHARF_LOGIN names them: no file
 * has to be removed, whatever ends the block. The client adds it to docker's configuration, and to those of the blocks
 * around this one.
 */
Object run(String step, Map given, Closure body) {
    Map plan = wharfArguments.planOf(step: step, arguments: arguments(), given: given)
    if (plan.problem != null) {
        error(plan.problem)
    }
    Map login = wharfArguments.loginOf(plan, env.WHARF_LOGIN ?: '')
    return wharfCli.withBindings([login.binding]) {
        withEnv(["WHARF_LOGIN=${login.all}"]) {
            body()
        }
    }
}

void refuse(String step) {
    error(step + " takes a block, and before it named arguments, for example " + step
        + "(credentialsId: 'registry', url: 'https://registry.example.com') { dockerPush(tag: 'registry.example.com/app:1') }")
}

/** As in wharfBuild. */
@NonCPS
List arguments() {
    return [
        [name: 'credentialsId', takes: 'login', flag: null, required: true],
        [name: 'url', takes: 'registry', flag: null, otherwise: 'docker.io'],
    ]
}
