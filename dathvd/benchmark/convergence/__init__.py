"""Does training approach a stationary point as the convergence theorem says?"""
