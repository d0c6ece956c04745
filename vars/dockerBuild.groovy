/*
 * Builds an image with Wharf, in the namespace of this run, and pushes it if asked:
 *
 *     def image = dockerBuild(tag: 'registry.example.com/app:1', push: true)
 *     echo image.digest
 *
 * docs/steps.md has every argument. wharfBuild is the same step: call that where another library has a
 * dockerBuild of its own, since whichever is loaded first hides the other.
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
