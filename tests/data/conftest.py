from hypothesis import settings

# timings on a busy machine say nothing, and sixty examples find what a thousand would
settings.register_profile("data", deadline=None, max_examples=60)
settings.load_profile("data")
