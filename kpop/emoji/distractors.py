"""Icons the judge learns beside the world's own, so that it can answer "something else".

Names as in the icon packages. The denoiser and its captions never meet them.
"""

DISTRACTORS = tuple(
    """
    airplane airplane-arrival alembic ant avocado baby-bottle backpack baguette-bread balance-scale bank
    beer-mug bell bell-with-slash bento-box birthday-cake black-nib blossom blue-book bookmark briefcase
    bullet-train burrito cactus camping candy chart-decreasing cheese-wedge cherries chestnut cigarette
    cityscape-at-dusk classical-building clinking-beer-mugs clipboard closed-book cloud clutch-bag
    coffin computer-disk control-knobs cow cow-face cricket croissant deciduous-tree desert-island
    dragon droplet drum egg elephant eleven-thirty evergreen-tree ewe fax-machine ferris-wheel file-
    cabinet file-folder floppy-disk foggy french-fries gear glasses goat gorilla green-salad hamburger
    helicopter herb hibiscus high-speed-train horse hot-beverage hotel lady-beetle laptop lemon level-
    slider linked-paperclips lion lipstick lizard locked locked-with-key locomotive mans-shoe megaphone
    microphone moai mobile-phone money-bag monkey mouse mouse-face mushroom musical-keyboard necktie
    new-moon-face newspaper night-with-stars nut-and-bolt old-key one-thirty open-file-folder outbox-
    tray page-facing-up page-with-curl passenger-ship paw-prints peanuts pear pen pig pineapple pizza
    printer railway-track rat red-apple red-paper-lantern rhinoceros rice-cracker rocket sake school
    seedling shamrock shaved-ice shinto-shrine ship shower shrimp six-thirty small-airplane snail snake
    speaker-low-volume spider spider-web spiral-shell statue-of-liberty studio-microphone sunset sushi
    syringe telephone ten-thirty three-thirty tiger tiger-face tokyo-tower tomato top-hat tornado train
    tulip tumbler-glass twelve-thirty two-hump-camel unicorn water-wave wedding wilted-flower wind-face
    womans-sandal
    """.split()
)
