/*
 * Pushes images that this run has built or tagged:
 *
 *     dockerPush(tag: 'registry.example.com/app:1', credentials: 'registry')
 *
 * docs/steps.md lists every argument. wharfPush is the same step: use it if another library also has a
 * dockerPush, since the one that is loaded first hides the other.
 */
Object call(Map given = [:]) {
    return wharfPush.run('dockerPush', given)
}

Object call(Object given) {
    wharfPush.refuse('dockerPush')
}

Object call(Object first, Object second, Object... rest) {
    wharfPush.refuse('dockerPush')
}
