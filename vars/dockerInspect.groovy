/*
 * Describes images of this run, as `docker inspect` does:
 *
 *     def about = dockerInspect(image: 'app:1')
 *     echo about.Config.Labels.toString()
 *
 * docs/steps.md lists every argument. wharfInspect is the same step: use it if another library also has a
 * dockerInspect, since the one that is loaded first hides the other.
 */
Object call(Map given = [:]) {
    return wharfInspect.run('dockerInspect', given)
}

Object call(Object given) {
    wharfInspect.refuse('dockerInspect')
}

Object call(Object first, Object second, Object... rest) {
    wharfInspect.refuse('dockerInspect')
}
