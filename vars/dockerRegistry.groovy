/*
 * Runs a block in which every step uses a login for a registry:
 *
 *     dockerRegistry(credentialsId: 'registry', url: 'https://registry.example.com') {
 *         dockerBuild(tag: 'registry.example.com/app:1', push: true)
 *     }
 *
 * docs/steps.md lists every argument. wharfRegistry is the same step: use it if another library also has a
 * dockerRegistry, since the one that is loaded first hides the other.
 */
Object call(Closure body) {
    return wharfRegistry.run('dockerRegistry', [:], body)
}

Object call(Map given, Closure body) {
    return wharfRegistry.run('dockerRegistry', given, body)
}

Object call(Object... given) {
    wharfRegistry.refuse('dockerRegistry')
}
