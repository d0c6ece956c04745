/*
 * Brings an image from a registry into the namespace of this run, as `docker pull` does:
 *
 *     dockerPull(image: 'registry.example.com/app:1', credentials: 'registry')
 *
 * docs/steps.md lists every argument. wharfPull is the same step: use it if another library also has a
 * dockerPull, since the one that is loaded first hides the other.
 */
void call(Map given = [:]) {
    wharfPull.run('dockerPull', given)
}

void call(Object given) {
    wharfPull.refuse('dockerPull')
}

void call(Object first, Object second, Object... rest) {
    wharfPull.refuse('dockerPull')
}
