/*
 * Builds an image with Wharf, in the namespace of this run, and pushes it if asked:
 *
 *     def image = dockerBuild(tag: 'registry.example.com/app:1', push: true)
 *     echo image.digest
 *
 * docs/steps.md lists every argument. wharfBuild is the same step: use it if another library also has a
 * dockerBuild, since the one that is loaded first hides the other.
 */
Map call(Map given = [:]) {
    return wharfBuild.run('dockerBuild', given)
}

Map call(Object given) {
    wharfBuild.refuse('dockerBuild')
}

Map call(Object first, Object second, Object... rest) {
    wharfBuild.refuse('dockerBuild')
}
