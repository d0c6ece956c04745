"""Runs a file's unittest cases with a line for each, and counts them like the other runners."""
import sys
import unittest


def main(name):
    """Runs the caller's tests; `name` names their subject and the engine: `python [26]`."""
    what, _, engine = name.partition(" ")

    class Result(unittest.TextTestResult):
        def getDescription(self, test):
            # A class that could not be set up is not a test, but counts as a failure.
            name = getattr(test, "_testMethodName", test.id())
            return f"{what}::{name.removeprefix('test_')} {engine}".rstrip()

    parts = sys.argv[1:]
    loader = unittest.TestLoader()
    suite = loader.loadTestsFromModule(sys.modules["__main__"])
    if parts:
        chosen = [test for group in suite for test in group if all(part in test.id() for part in parts)]
        suite = unittest.TestSuite([loader.suiteClass([test]) for test in chosen])
    result = unittest.TextTestRunner(sys.stdout, verbosity=2, resultclass=Result).run(suite)
    failed = len(result.failures) + len(result.errors) + len(result.skipped)
    passed = result.testsRun - len(result.failures) - len(result.errors) - len(result.skipped)
    print(f"{max(passed, 0)} passed, {failed} failed", flush=True)
    sys.exit(bool(failed or not result.testsRun))
