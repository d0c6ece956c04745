/*
 * Runs a block, and then removes everything that the namespace of this run owns:
 *
 *     dockerNamespace {
 *         dockerBuild(tag: 'registry.example.com/app:1', push: true)
 *     }
 *
 * docs/steps.md lists every argument. wharfNamespace is the same step: use it if another library also has a
 * dockerNamespace, since the one that is loaded first hides the other.
 */
Object call(Closure body) {
    return wharfNamespace.run('dockerNamespace', [:], body)
}

Object call(Map given, Closure body) {
    return wharfNamespace.run('dockerNamespace', given, body)
}

Object call(Object... given) {
    wharfNamespace.refuse('dockerNamespace')
}
