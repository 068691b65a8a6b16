"""Describe a run's figures by their file names."""

CAPTIONS = {
    "boundary": "Colours are classes in the proportions of their probabilities; white is taken for fake.",
    "confusion": "Rows are true classes, columns predicted ones. A cell is the share of the row's queries that were "
    "given the column's class, among the test tasks that held both; grey pairs never met. confusion.csv has all pairs.",
    "embedding": "Features of the images of the first test tasks, after adapting to each, on their first two principal "
    "components. Squares are support images, dots queries, crosses queries that were predicted wrong.",
    "generated": "Images of test tasks, and images that were generated for the same tasks.",
    "generated_over_time": "Real images of a validation task, and those generated for it as training went on.",
    "inner_steps": "Accuracy and loss on the queries of the first test tasks after each inner step, with 95% "
    "intervals; the scores are of the number of steps at the dashed line.",
    "learning_curves": "Over training: the losses, and accuracy on training and validation tasks.",
    "open_set": "The knownness of query images and of images of unknown classes (the first and the last bar hold all "
    "beyond), and the mean ROC curve of the test tasks, with a dot at 95% recall. Knownness need not be comparable "
    "between tasks: the curve and its area are computed task by task.",
    "test_episodes": "A column is a class: support images above, queries below, each with the number of the class that "
    "was predicted and its probability; mistakes in red.",
}
