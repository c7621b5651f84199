"The longest files first: a file is one piece of work for a worker, and the last one to start decides when all is done."

FIRST = ('test_smoke', 'test_paper', 'test_evaluation', 'test_models', 'test_docs')

def pytest_collection_modifyitems(items): items.sort(key=lambda i: FIRST.index(i.path.stem) if i.path.stem in FIRST else len(FIRST))
