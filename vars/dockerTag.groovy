/*
 * Gives an image of this run another name, as `docker tag` does:
 *
 *     dockerTag(image: 'app:1', tag: 'registry.example.com/app:stable')
 *
 * docs/steps.md lists every argument. wharfTag is the same step: use it if another library also has a
 * dockerTag, since the one that is loaded first hides the other.
 */
void call(Map given = [:]) {
    wharfTag.run('dockerTag', given)
}

void call(Object given) {
    wharfTag.refuse('dockerTag')
}

void call(Object first, Object second, Object... rest) {
    wharfTag.refuse('dockerTag')
}
