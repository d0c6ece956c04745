/*
 * Saves images of this run to a tar, as `docker save` does:
 *
 *     dockerSave(image: 'registry.example.com/app:1', output: 'app.tar')
 *
 * docs/steps.md lists every argument. wharfSave is the same step: use it if another library also has a
 * dockerSave, since the one that is loaded first hides the other.
 */
void call(Map given = [:]) {
    wharfSave.run('dockerSave', given)
}

void call(Object given) {
    wharfSave.refuse('dockerSave')
}

void call(Object first, Object second, Object... rest) {
    wharfSave.refuse('dockerSave')
}
