"What holds for all tests: one thread each, and the longest files first."
import os

os.environ['OMP_NUM_THREADS'] = '1' # before torch: two workers of two threads on two cores wait for each other

FIRST = ('test_smoke', 'test_paper', 'test_evaluation', 'test_models') # a file is one piece of work for a worker, and the last one to start decides when all is done

def pytest_collection_modifyitems(items): items.sort(key=lambda i: FIRST.index(i.path.stem) if i.path.stem in FIRST else len(FIRST))
